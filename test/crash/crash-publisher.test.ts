import { testPipelineCrashes } from './matrix.ts';

testPipelineCrashes(['publisher', 'market']);

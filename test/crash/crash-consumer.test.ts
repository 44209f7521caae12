import { testPipelineCrashes } from './matrix.ts';

testPipelineCrashes(['consumer', 'resync']);

import { testPipelineCrashes } from './matrix.ts';

testPipelineCrashes(['queue', 'refresh', 'cleanup', 'task']);

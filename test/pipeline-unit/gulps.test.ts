import { EventEmitter } from 'node:events';
import type { Socket } from 'node:net';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { readInGulps } from '../../pipeline/gulps.ts';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

/** A socket as far as it is read in gulps, and what was asked of it. */
class FakeSocket extends EventEmitter {
  readonly asked: string[] = [];

  pause(): void {
    this.asked.push('pause');
  }

  resume(): void {
    this.asked.push('resume');
  }

  read(times: number): void {
    for (let read = 0; read < times; read += 1) this.emit('data', Buffer.alloc(300));
  }
}

function readFrom(mayRead = () => true): FakeSocket {
  const socket = new FakeSocket();
  readInGulps(socket as unknown as Socket, mayRead);
  return socket;
}

test('reading rests for a millisecond after many reads at once, and then goes on, again and again', () => {
  const socket = readFrom();
  for (let gulp = 1; gulp <= 3; gulp += 1) {
    socket.read(32);
    expect(socket.asked).toEqual(['pause']);
    vi.advanceTimersByTime(1);
    expect(socket.asked.splice(0)).toEqual(['pause', 'resume']);
  }
});

test('a transaction of a few rows is read without a rest, and so is a stream that is no faster than a message in a while', () => {
  const socket = readFrom();
  socket.read(31);
  vi.advanceTimersByTime(1_000);
  for (let read = 0; read < 1_000; read += 1) {
    socket.read(1);
    vi.advanceTimersByTime(0.1);
  }
  expect(socket.asked).toEqual([]);
});

test('what was paused by somebody else during a rest, or has ended, is not resumed', () => {
  let mayRead = true;
  const socket = readFrom(() => mayRead);
  socket.read(32);
  mayRead = false;
  vi.advanceTimersByTime(10);
  socket.read(32);
  expect(socket.asked).toEqual(['pause']);
});

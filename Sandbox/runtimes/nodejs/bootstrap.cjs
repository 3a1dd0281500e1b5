// SPDX-License-Identifier: Apache-2.0
// The nodejs runtime: speaks the worker protocol (../README.md) on fd 3 and calls the tenant's handler. Concurrent by nature: one slot an invocation.
'use strict';
const net = require('net');
const path = require('path');
const { pathToFileURL } = require('url');
const fs = require('fs');

const K = { hello: 1, init: 2, ready: 3, initError: 4, invoke: 5, result: 6, chunk: 7, error: 8, log: 9, call: 10, callResult: 11, emit: 12,
  emitResult: 13, retryLater: 14, cancel: 15, drain: 16, freeze: 17 };
const T = { protocol: 1, runtime: 2, pid: 3, function: 4, version: 5, handler: 6, environment: 7, secret: 8, memory: 9, bucket: 10, timeout: 11,
  initTime: 12, errorType: 13, errorMessage: 14, errorStack: 15, invocation: 16, deadline: 17, trigger: 18, contentType: 19, attempt: 20,
  lineage: 21, traceparent: 22, body: 23, status: 24, header: 25, level: 26, message: 27, target: 28, mode: 29, outcome: 30, topic: 31,
  event: 32, after: 33, grace: 34, request: 35, concurrency: 36, layer: 37 };
const LAST = 1;
const MAXIMUM_BODY = 8 << 20;
const MAXIMUM_LENGTH = MAXIMUM_BODY + (64 << 10);

const u16 = (n) => { const b = Buffer.alloc(2); b.writeUInt16LE(n & 0xffff); return b; };
const u32 = (n) => { const b = Buffer.alloc(4); b.writeUInt32LE(n >>> 0); return b; };
const u64 = (n) => { const b = Buffer.alloc(8); b.writeBigUInt64LE(BigInt(n)); return b; };
const text = (s) => Buffer.from(String(s));

function encode(kind, slot, fields, flags = 0) {
  let size = 8;
  for (const [, value] of fields) size += 5 + value.length;
  const out = Buffer.allocUnsafe(size);
  out.writeUInt32LE(size - 4, 0);
  out[4] = kind;
  out[5] = flags;
  out.writeUInt16LE(slot, 6);
  let at = 8;
  for (const [tag, value] of fields) {
    out[at] = tag;
    out.writeUInt32LE(value.length, at + 1);
    value.copy(out, at + 5);
    at += 5 + value.length;
  }
  return out;
}

function decode(payload) {
  const frame = { kind: payload[0], flags: payload[1], slot: payload.readUInt16LE(2), fields: [] };
  for (let at = 4; at < payload.length;) {
    const size = at + 5 <= payload.length ? payload.readUInt32LE(at + 1) : 0;
    if (at + 5 + size > payload.length) breach('a field that runs past its frame');
    frame.fields.push([payload[at], payload.subarray(at + 5, at + 5 + size)]);
    at += 5 + size;
  }
  return frame;
}

const first = (frame, tag) => { const f = frame.fields.find(([t]) => t === tag); return f && f[1]; };
const string = (frame, tag) => (first(frame, tag) || '').toString();

let socket;
const state = { function: '', version: 0, memory: 0n, handler: null, module: null, requests: 0, waiting: new Map(), slots: new Map(),
  isRehearsing: false };
const send = (kind, slot, fields, flags) => state.isRehearsing || socket.write(encode(kind, slot, fields, flags));

class CallError extends Error {
  constructor(outcome, message) { super(message || outcome); this.name = 'CallError'; this.outcome = outcome; }
}
// A hook of a layer failed, or refused the invocation; the message names the layer.
class LayerError extends Error {
  constructor(name, hook, error) {
    super(`layer ${name}${hook && `, ${hook}`}: ${error instanceof Error ? `${error.name}: ${error.message}` : error}`);
    this.name = 'LayerError';
    if (error instanceof Error) this.stack = error.stack;
  }
}
class RetryLater extends Error {
  constructor(seconds) { super(`retry in ${seconds} s`); this.name = 'RetryLater'; this.seconds = seconds; }
}

function payloadOf(payload) {
  if (Buffer.isBuffer(payload) || payload instanceof Uint8Array) return [Buffer.from(payload), 'application/octet-stream'];
  return [text(JSON.stringify(payload === undefined ? null : payload)), 'application/json'];
}

function eventOf(body, contentType) {
  const kind = contentType.split(';')[0].trim().toLowerCase();
  if (kind === 'application/json' || kind.endsWith('+json')) return body.length ? JSON.parse(body.toString()) : null;
  if (kind === '') {
    if (!body.length) return null;
    try { return JSON.parse(body.toString()); } catch { /* not JSON: text or bytes */ }
    const decoded = body.toString();
    return Buffer.from(decoded).equals(body) ? decoded : Buffer.from(body);
  }
  return kind.startsWith('text/') ? body.toString() : Buffer.from(body);
}

function answerOf(value) {
  if (value && typeof value === 'object' && Number.isInteger(value.statusCode)) {
    const headers = Object.entries(value.headers || {});
    let body = value.body ?? '';
    let kind = headers.find(([k]) => k.toLowerCase() === 'content-type')?.[1];
    if (typeof body === 'string') body = Buffer.from(body, value.isBase64Encoded ? 'base64' : 'utf8');
    else if (!(body instanceof Uint8Array)) { body = text(JSON.stringify(body)); kind = kind || 'application/json'; }
    const fields = [[T.status, u16(value.statusCode)], [T.contentType, text(kind || 'text/plain; charset=utf-8')]];
    for (const [k, v] of [...headers, ...Object.entries(value.multiValueHeaders || {})]) {
      if (k.toLowerCase() !== 'content-type') for (const one of [v].flat()) fields.push([T.header, text(`${k}: ${one}`)]);
    }
    for (const cookie of value.cookies || []) fields.push([T.header, text(`Set-Cookie: ${cookie}`)]);
    return [fields, Buffer.from(body)];
  }
  if (value instanceof Uint8Array) return [[[T.contentType, text('application/octet-stream')]], Buffer.from(value)];
  if (typeof value === 'string') return [[[T.contentType, text('text/plain; charset=utf-8')]], text(value)];
  return [[[T.contentType, text('application/json')]], text(JSON.stringify(value === undefined ? null : value))];
}

function errorFields(error) {
  const known = error instanceof Error;
  const stack = known ? String(error.stack || '').split('\n').filter((l) => !l.includes(__filename) && !l.includes('node:internal')).join('\n') : '';
  return [[T.errorType, text(known ? error.name : typeof error)], [T.errorMessage, text(known ? error.message : String(error)).subarray(0, 65536)],
    [T.errorStack, text(stack).subarray(0, 65536)]];
}

function request(slot, kind, fields) {
  const number = ++state.requests;
  return new Promise((resolve, reject) => {
    state.waiting.set(number, (frame) => {
      const outcome = string(frame, T.outcome);
      if (outcome === 'ok') resolve(frame); else reject(new CallError(outcome, string(frame, T.errorMessage)));
    });
    send(kind, slot, [[T.request, u32(number)], ...fields]);
  });
}

// Of the request, where an HTTP route of shape `bulkhead` started this; its own parts are undefined else. Header names are in lower case.
function requestOf(frame) {
  const own = {}, headers = {}, query = {};
  for (const [tag, value] of frame.fields) {
    if (tag !== T.header) continue;
    const line = value.toString();
    const at = line.indexOf(': ', 1);
    const name = line.slice(0, at), rest = line.slice(at + 2);
    if (name[0] === ':') own[name] = rest;
    else headers[name] = name in headers ? `${headers[name]}${name === 'cookie' ? '; ' : ', '}${rest}` : rest;
  }
  for (const [name, value] of new URLSearchParams(own[':query'] || '')) query[name] = name in query ? `${query[name]},${value}` : value;
  const cookies = Object.fromEntries((headers.cookie || '').split(';').map((part) => part.trim().split(/=(.*)/s)).filter(([name]) => name)
    .map(([name, value]) => [name, value || '']));
  return { method: own[':method'], path: own[':path'], rest: own[':rest'], queryString: own[':query'], sourceAddress: own[':source'], query, headers,
    cookies };
}

function contextOf(frame) {
  const slot = frame.slot;
  const deadline = first(frame, T.deadline);
  const abort = new AbortController();
  const log = (level) => (message) => send(K.log, slot, [[T.level, Buffer.from([level])],
    [T.message, text(typeof message === 'string' ? message : JSON.stringify(message)).subarray(0, 16384)]]);
  return {
    abort,
    context: {
      requestId: string(frame, T.invocation), function: state.function, version: state.version, memoryLimit: Number(state.memory),
      trigger: string(frame, T.trigger), contentType: string(frame, T.contentType), traceparent: string(frame, T.traceparent),
      attempt: first(frame, T.attempt)?.readUInt32LE() ?? 1, signal: abort.signal, ...requestOf(frame),
      remainingTimeMs: () => (deadline ? Math.max(0, Number(deadline.readBigUInt64LE()) - Date.now()) : 0),
      logger: { debug: log(0), info: log(1), warning: log(2), error: log(3) },
      call: async (target, payload) => {
        const [body, kind] = payloadOf(payload);
        const reply = await request(slot, K.call, [[T.target, text(target)], [T.mode, Buffer.from([0])], [T.contentType, text(kind)], [T.body, body]]);
        return eventOf(first(reply, T.body) || Buffer.alloc(0), string(reply, T.contentType));
      },
      callAsync: async (target, payload) => {
        const [body, kind] = payloadOf(payload);
        return string(await request(slot, K.call, [[T.target, text(target)], [T.mode, Buffer.from([1])], [T.contentType, text(kind)], [T.body, body]]), T.event);
      },
      emit: async (topic, payload) => {
        const [body, kind] = payloadOf(payload);
        return string(await request(slot, K.emit, [[T.topic, text(topic)], [T.contentType, text(kind)], [T.body, body]]), T.event);
      },
      retryLater: (seconds) => { throw new RetryLater(Math.max(0, Math.floor(seconds))); },
    },
  };
}

async function invoke(frame) {
  const slot = frame.slot;
  const { abort, context } = contextOf(frame);
  const cancelled = new Promise((_, reject) => {
    abort.signal.addEventListener('abort', () => reject(Object.assign(new Error('the invocation was cancelled'), { name: 'Cancelled' })));
  });
  cancelled.catch(() => {});
  const running = { abort, fail: null };
  const failed = new Promise((_, reject) => { running.fail = reject; });
  failed.catch(() => {});
  state.slots.set(slot, running);
  try {
    const event = eventOf(first(frame, T.body) || Buffer.alloc(0), context.contentType);
    const value = await Promise.race([Promise.resolve(state.handler(event, context)), cancelled, failed]);
    if (value && typeof value[Symbol.asyncIterator] === 'function') return await stream(value, slot, Promise.race([cancelled, failed]));
    const [fields, body] = answerOf(value);
    if (body.length > MAXIMUM_BODY) throw new RangeError(`the answer has ${body.length} bytes, at most ${MAXIMUM_BODY} are allowed`);
    fields.push([T.body, body]);
    send(K.result, slot, fields);
  } catch (error) {
    if (error instanceof RetryLater) send(K.retryLater, slot, [[T.after, u32(error.seconds)]]);
    else send(K.error, slot, errorFields(error));
  } finally {
    state.slots.delete(slot);
  }
}

async function stream(chunks, slot, ended) {
  let head = null;
  ended.catch(() => {});
  const parts = chunks[Symbol.asyncIterator]();
  for (;;) {
    const part = Promise.resolve(parts.next());
    part.catch(() => {}); // it may fail after nobody waits for it
    const { done, value: chunk } = await Promise.race([part, ended]).catch((error) => {
      Promise.resolve(parts.return?.()).catch(() => {});
      throw error;
    });
    if (done) break;
    const data = typeof chunk === 'string' ? text(chunk) : Buffer.from(chunk);
    head = head === null ? [[T.contentType, text(typeof chunk === 'string' ? 'text/plain; charset=utf-8' : 'application/octet-stream')]] : [];
    for (let at = 0; at < data.length; at += 1 << 20) {
      if (!send(K.chunk, slot, [...head, [T.body, data.subarray(at, at + (1 << 20))]])) await new Promise((r) => socket.once('drain', r));
      head = [];
    }
  }
  send(K.result, slot, [], LAST);
}

async function load(handler) {
  const dot = handler.lastIndexOf('.');
  if (dot < 1) throw new TypeError(`handler '${handler}' is not of the form file.function`);
  const base = path.resolve(process.cwd(), handler.slice(0, dot));
  const name = handler.slice(dot + 1);
  const file = ['.js', '.cjs', '.mjs'].map((e) => base + e).find((f) => fs.existsSync(f));
  if (!file) throw new Error(`the code has no file ${handler.slice(0, dot)}.js, .cjs or .mjs (handler '${handler}')`);
  let module;
  try {
    module = file.endsWith('.mjs') ? await import(pathToFileURL(file).href) : require(file);
  } catch (error) {
    if (error && error.code === 'ERR_REQUIRE_ESM') module = await import(pathToFileURL(file).href);
    else throw error;
  }
  const found = module[name] ?? module.default?.[name];
  if (typeof found !== 'function') throw new TypeError(`${path.basename(file)} exports no function '${name}' (handler '${handler}')`);
  return [module, found];
}

// The hooks of a layer; one without `hooks.js` has none and is only there to be required from, by its path.
function loadLayer(name) {
  const folder = `/layers/${name}`;
  try {
    const hooks = fs.existsSync(`${folder}/hooks.js`) ? require(`${folder}/hooks.js`) : {};
    return { name, before: hooks.before, after: hooks.after };
  } catch (error) {
    throw new LayerError(name, '', error);
  }
}

// The handler inside its layers: the first one's `before` is the first to see the event, and its `after` the last to see the answer.
const layered = (handler, hooks) => async (event, context) => {
  const entered = [];
  let answer, error, hasFailed = false;
  try {
    for (const hook of hooks) {
      if (hook.before) {
        try {
          event = await hook.before(event, context) ?? event;
        } catch (failure) {
          throw failure instanceof RetryLater ? failure : new LayerError(hook.name, 'before', failure);
        }
      }
      entered.unshift([hook, event]);
    }
    answer = await handler(event, context);
  } catch (failure) {
    [hasFailed, error] = [true, failure];
  }
  for (const [hook, seen] of entered) {
    if (!hook.after) continue;
    try {
      answer = await hook.after(seen, context, answer, hasFailed ? error ?? new Error(String(error)) : null) ?? answer;
    } catch (failure) {
      [hasFailed, answer] = [true, undefined];
      error = failure instanceof RetryLater ? failure : new LayerError(hook.name, 'after', failure);
    }
  }
  if (hasFailed) throw error;
  return answer;
};

async function initialize(frame) {
  const begin = process.hrtime.bigint();
  state.function = string(frame, T.function);
  state.version = first(frame, T.version)?.readUInt32LE() ?? 0;
  state.memory = first(frame, T.memory)?.readBigUInt64LE() ?? 0n;
  for (const [tag, value] of frame.fields) {
    if (tag !== T.environment && tag !== T.secret) continue;
    const pair = value.toString();
    const at = pair.indexOf('=');
    process.env[pair.slice(0, at)] = pair.slice(at + 1);
  }
  try {
    if (fs.existsSync('/function')) process.chdir('/function');
    // Before the function's own code, which hooks may so prepare for (tracing).
    const hooks = frame.fields.filter(([tag]) => tag === T.layer).map(([, name]) => loadLayer(name.toString())).filter((l) => l.before || l.after);
    [state.module, state.handler] = await load(string(frame, T.handler));
    if (hooks.length) state.handler = layered(state.handler, hooks);
    const hook = state.module.initializer ?? state.module.default?.initializer;
    if (typeof hook === 'function') await hook();
    send(K.ready, 0, [[T.initTime, u64((process.hrtime.bigint() - begin) / 1000n)]]);
  } catch (error) {
    const fields = errorFields(error);
    // A syntax error's place is in the first lines of its stack, before the message.
    if (error instanceof SyntaxError) fields[1][1] = text(`${error.message} (${String(error.stack).split('\n')[0]})`);
    send(K.initError, 0, fields);
    socket.end(() => process.exit(0));
  }
}

async function drain() {
  const hook = state.module && (state.module.preStop ?? state.module.default?.preStop);
  try { if (typeof hook === 'function') await hook(); } catch (error) { console.error(error); }
  socket.end(() => process.exit(0));
}

function received(frame) {
  switch (frame.kind) {
    case K.init: initialize(frame); break;
    case K.invoke: invoke(frame); break;
    case K.cancel: state.slots.get(frame.slot)?.abort.abort(); break;
    case K.callResult:
    case K.emitResult: {
      const number = first(frame, T.request)?.readUInt32LE() ?? 0;
      const waiter = state.waiting.get(number);
      state.waiting.delete(number);
      waiter?.(frame);
      break;
    }
    case K.drain: drain(); break;
    case K.freeze: break;
    default: breach(`a frame of kind ${frame.kind}`);
  }
}

function breach(what) {
  fs.writeSync(2, `the supervisor broke the worker protocol: ${what}\n`);
  process.exit(1);
}

// A worker that waits for its function runs everything once that the first caller would otherwise wait for: loading a file, and an invocation
// whose frames go nowhere. It is over before the next frame is read.
function rehearse() {
  state.isRehearsing = true;
  try {
    state.handler = require('./rehearsal.cjs').handler;
    path.resolve(process.cwd(), 'index');
    fs.existsSync('/function/index.js');
    const frame = encode(K.invoke, 0, [[T.invocation, text('0')], [T.deadline, u64(0)], [T.contentType, text('application/json')], [T.body, text('1')]]);
    invoke(decode(frame.subarray(4))).finally(() => { state.isRehearsing = false; state.handler = null; });
  } catch { state.isRehearsing = false; }
}
const REHEARSAL_AFTER = 15; // ms without an `init`: a worker that is started for a function gets it at once

function main() {
  process.on('unhandledRejection', (error) => {
    // It belongs to whichever invocation runs; with several there is no telling which, so all of them fail.
    if (state.slots.size === 0) console.error(error);
    for (const running of state.slots.values()) running.fail(error);
  });
  socket = new net.Socket({ fd: 3, readable: true, writable: true });
  let buffer = Buffer.alloc(0);
  const rehearsal = setTimeout(rehearse, REHEARSAL_AFTER);
  socket.on('data', (data) => {
    clearTimeout(rehearsal);
    buffer = buffer.length ? Buffer.concat([buffer, data]) : data;
    while (buffer.length >= 4) {
      const size = buffer.readUInt32LE(0);
      if (size < 4 || size > MAXIMUM_LENGTH) breach(`a frame of ${size} bytes`);
      if (buffer.length < 4 + size) break;
      const payload = buffer.subarray(4, 4 + size);
      buffer = buffer.subarray(4 + size);
      received(decode(payload));
    }
  });
  socket.on('end', () => process.exit(0));
  socket.on('error', () => process.exit(0));
  send(K.hello, 0, [[T.protocol, u16(1)], [T.runtime, text('nodejs')], [T.pid, u32(process.pid)]]);
}

if (require.main === module) main();
module.exports = { encode, decode };

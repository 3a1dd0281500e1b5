// SPDX-License-Identifier: Apache-2.0
// What run.py asks of a nodejs function.
'use strict';

exports.NUMBER = 7;
exports.initializer = async () => { if (process.env.REFUSE) throw new Error('refused'); };
exports.preStop = async () => { console.log('stopping'); };

async function* parts(count) {
  for (let number = 0; number < count; number += 1) {
    yield `part ${number}\n`;
    if (count > 100) await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

const form = (event) => (event === null ? 'nothing' : event instanceof Uint8Array ? 'bytes' : typeof event === 'string' ? 'text' : typeof event);

exports.handler = async (event, context) => {
  if (context.contentType === 'application/octet-stream') return event.subarray(5);
  if (context.contentType !== 'text/plain') return { seen: form(event) };
  const at = event.indexOf(' ');
  const [order, rest] = at < 0 ? [event, ''] : [event.slice(0, at), event.slice(at + 1)];
  switch (order) {
    case 'echo': return rest;
    case 'env': return process.env[rest];
    case 'trace': return context.traceparent;
    case 'fail': throw new TypeError('a bad thing');
    case 'later': return context.retryLater(7);
    case 'log': context.logger.warning('a line'); return 'logged';
    case 'request': return { statusCode: 200, headers: { 'x-one': [1, 2] }, multiValueHeaders: { 'x-many': ['a', 'b'] }, cookies: ['a=1', 'b=2'],
      body: [context.method, context.path, context.rest, context.queryString, context.sourceAddress, context.query, context.headers, context.cookies] };
    case 'status': return { statusCode: 418, headers: { 'x-colour': 'blue' }, body: 'teapot' };
    case 'size': return Buffer.alloc(Number(rest));
    case 'call': return context.call(rest, { a: 1 });
    case 'async': return context.callAsync(rest, { a: 1 });
    case 'emit': return context.emit(rest, { a: 1 });
    case 'stream': return parts(Number(rest));
    case 'spin': context.logger.info('spinning'); return new Promise(() => {});
    default: throw new RangeError(order);
  }
};

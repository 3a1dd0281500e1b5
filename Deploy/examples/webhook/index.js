// SPDX-License-Identifier: Apache-2.0
const { createHmac, timingSafeEqual } = require('crypto');

// {"signature": "sha256=...", "payload": "..."}: the signature covers the payload as it was sent.
exports.handler = async (event) => {
  const expected = Buffer.from('sha256=' + createHmac('sha256', process.env.SECRET).update(event.payload).digest('hex'));
  const given = Buffer.from(String(event.signature));
  const valid = given.length === expected.length && timingSafeEqual(given, expected);
  return valid ? { statusCode: 200, body: { accepted: JSON.parse(event.payload).action } } : { statusCode: 403, body: { refused: 'signature' } };
};

// SPDX-License-Identifier: Apache-2.0
'use strict';
// Stands for a function while a prewarmed worker waits for its own.
exports.handler = async (event) => 'ready';

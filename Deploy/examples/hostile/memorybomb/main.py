# SPDX-License-Identifier: Apache-2.0
def handler(event, context):
    """Takes memory until it is stopped."""
    kept = []
    while True:
        kept.append(bytearray(8 << 20))

# SPDX-License-Identifier: Apache-2.0
"""Starts the python3 runtime. All of it is in _bulkhead_runtime.py: Python takes a module compiled where `Deploy/build` has compiled it, a program never, and to compile
this one takes half as long as to start the interpreter."""
import _bulkhead_runtime

# The children of `multiprocessing` import their parent's program under another name.
if __name__ == "__main__":
    _bulkhead_runtime.main()

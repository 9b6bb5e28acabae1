"""The road every request takes: intake, admit, [queue], execute, settle, deliver. A file per step.

Each step commits its own transaction; what it calls does not. Ids and values in, values out, our errors raised.
"""

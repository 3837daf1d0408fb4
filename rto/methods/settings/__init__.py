"""The settings of the methods of this package.

A method is a frozen value that holds its settings, so each class here is a base of the method's own
class: names, defaults, ranges and descriptions stand once. Nothing here needs torch, for `rto train
--help` reads it.
"""

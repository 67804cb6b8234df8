"""Names of the rules by which texts become ids. No TensorFlow, so that a vocabulary's file can be
checked before it is imported.
"""

# The side that is padded, and cut.
PRE, POST = "pre", "post"
# Which letters become small.
ASCII, UNICODE = "ascii", "unicode"

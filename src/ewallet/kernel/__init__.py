"""The nouns that every service shares: money, identifiers, time, who is asking, and why a request is refused.

Standard library only, no input or output: nothing here can fail for a reason outside the process.
"""

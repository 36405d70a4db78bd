"""What runs inside the sandbox: the worker, and the checks that a hostile answer could make run away.

These files are started as scripts and import nothing of this package.
"""

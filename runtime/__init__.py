"""Local speech runtime: recognition and synthesis engines behind one contract.

Usable and tested without a cluster. Only ``runtime.client`` and ``runtime.cli``
import Ray; only the engines that need torch or NeMo import them, lazily.
"""

__version__ = "0.1.0"

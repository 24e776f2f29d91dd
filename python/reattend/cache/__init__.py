"""Keys and values of a generation."""

from reattend.cache.kv_cache import KVCache

__all__ = ["KVCache"]

"""Speech recognition with NVIDIA Parakeet: recordings with TDT, streams with cache-aware RNNT."""

"""Images, videos and where they are kept: decoding with limits, encoding, listing, the content-addressed store."""

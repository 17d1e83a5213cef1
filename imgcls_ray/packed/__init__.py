"""Images that are packed into files: tar, zip and Parquet. Listing their members, and reading them in few requests.

Nothing is ever written to disk. What a file says of itself is bounded before it is believed.
"""

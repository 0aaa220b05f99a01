"""Thin glue: each stage reads its parents' artifacts, calls the maths and writes its own."""

"""Rove: a recommender that keeps learning. This package is the domain; it never imports Ray."""

"""Tests on a Ray of two nodes; a package, so that its cluster ends with its last test."""

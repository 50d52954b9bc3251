"""Folders of records wherever they lie: whole files or none, addresses without secrets, outages waited out."""

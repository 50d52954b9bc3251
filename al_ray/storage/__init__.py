"""Storage: folders on disks, NFS and object stores, with atomic writes, retries and addresses without secrets."""

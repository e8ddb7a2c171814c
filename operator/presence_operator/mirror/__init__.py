"""The mirror: live claims, their history and the sessions as SQL tables, in Dolt, MySQL or MariaDB.

The API server is the truth. What stands in the database follows from it and can be computed anew at any time.
"""

"""The presence operator: keeps the board true and its history in Dolt."""

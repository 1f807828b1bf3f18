"""sgdm"""

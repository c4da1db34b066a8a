"""The audit: what can the benchmark's scores tell, from how many pairs on, and where do they mislead?"""

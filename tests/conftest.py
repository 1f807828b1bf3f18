from hypothesis import settings

# The same examples on every run and every machine; search further with --hypothesis-profile=explore.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.register_profile("explore", max_examples=2000, deadline=None)
settings.load_profile("repeatable")

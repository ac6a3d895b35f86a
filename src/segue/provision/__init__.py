"""Makes hosts ready: what must lie on a host so that guests can move to and from it. What may live here: a package a matter.

It reaches hosts through `segue.hosts` and knows neither drivers nor what is written down of migrations.
"""

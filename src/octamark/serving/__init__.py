"""The REST service that ``octamark serve`` starts.

``settings`` says what it allows, ``uploads`` reads requests, ``decoding`` and ``decoder`` turn pictures into pixels
in other processes, ``prediction`` runs the networks, ``service`` leads a picture through these, ``app`` has the
routes, and ``server`` listens.
"""

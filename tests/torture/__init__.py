"""Faults by the thousand: kills, losses of power, damaged files, broken machines.

    make torture                    all campaigns, under an hour on 2 cores
    make torture MINUTES=5          their short form
    make torture SEED=7 ONLY=kills CASE=17      one case again

Each module beside the harness (``campaign``, ``run``, ``child``) is one campaign.
"""

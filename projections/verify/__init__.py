"""`stockhold verify`: everything that is derived from the log against a replay of the log.

    with Verification(event_store_url, read_model_url, redis_url) as verification:
        report = verification.run()

It shares nothing with the folds: only here do projections use the domain's aggregates.
"""

from projections.verify.report import Report
from projections.verify.verification import Verification
from projections.verify.view_source import GenerationName

__all__ = ["GenerationName", "Report", "Verification"]

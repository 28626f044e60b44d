"""One file per view: its row, its fold, and the statement that writes it.

Views share one watermark per stream, the ``version`` of the stock level's or the warehouse's row, so
whoever moves that moves the hold rows and movements of the same events in the same transaction.
"""

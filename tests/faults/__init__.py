"""The fault matrix: every death at every moment, on the real lab, judged by the auditor."""

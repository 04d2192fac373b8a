"""The colours of a score, for pictures and pages alike."""

# Score 0 to score 1. People expect red-yellow-green, which one man in twelve cannot read: under simulated red-green
# blindness two RdYlGn colours half a scale apart differ by 3 (CIE76), and its two ends by 18. This keeps the reading
# (dark red is bad, amber halfway, green good) with a far lighter, bluish green: 23 or more for any two scores 0.25 apart,
# 37 at half a scale (tests/environments/reports/test_report.py measures both).
SCORE_COLOURS = ("#67001f", "#b2182b", "#e2643c", "#f6ab52", "#f9e58c", "#b5e2b8", "#4fb8a4")

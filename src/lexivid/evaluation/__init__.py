"""Measuring a model: metrics, protocols, calibration (MOV, section 4 and appendix C)."""

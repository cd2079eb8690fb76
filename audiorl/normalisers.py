"""The old name of `audiorl.text.normalizers`, and the old names in it: both go on to work."""

from audiorl.text.normalizers import NORMALIZERS as NORMALISERS
from audiorl.text.normalizers import Normalizer as Normaliser
from audiorl.text.normalizers import basic_text, lower_text
from audiorl.text.normalizers import normalizer as normaliser

__all__ = ["NORMALISERS", "Normaliser", "basic_text", "lower_text", "normaliser"]

"""The five grades of diabetic retinopathy, which labels, network and metrics count by.

The International Clinical Diabetic Retinopathy severity scale (Wilkinson et al. 2003).
"""

GRADES = ("No DR", "Mild", "Moderate", "Severe", "Proliferative")
# Least grades of the clinical cuts: International Clinical DR scale (Wilkinson et al.).
REFERABLE = 2
SIGHT_THREATENING = 3

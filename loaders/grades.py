"""The five grades of diabetic retinopathy, which labels, network and metrics count by.

The International Clinical Diabetic Retinopathy severity scale (Wilkinson et al. 2003).
"""

GRADES = ("No DR", "Mild", "Moderate", "Severe", "Proliferative")
# the least grade; International Clinical DR scale (Wilkinson et al. 2003)
REFERABLE = 2
SIGHT_THREATENING = 3

"""The five grades of diabetic retinopathy, which labels, network and metrics count by.

The International Clinical Diabetic Retinopathy severity scale (Wilkinson et al. 2003).
"""

GRADES = ("No DR", "Mild", "Moderate", "Severe", "Proliferative")

"""Strengths and heads, chosen on data of their own."""

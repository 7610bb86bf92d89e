"""TeX as models write it, and the MathML of it.

reasons     whether text between dollars is a formula at all
reader      arguments of commands
translate   what math-core does not take, in commands that it takes
macros      commands that are short for others
chemistry   ``\\ce`` of mhchem
quantities  ``\\SI``, ``\\qty``, ``\\num``, ``\\pu`` and the like
mathml      math-core, and the limits within which it is called
"""

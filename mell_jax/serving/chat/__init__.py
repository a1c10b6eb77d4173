"""Protocols of conversations share this, whatever their words are.

body --read_body, Fields--> request --(its protocol)--> ChatWish
ChatWish --Desk--> steps: Begun, events of the answer, Ended
steps --Teller (its protocol)--> one object, or events with names --Reply--> HTTP
"""

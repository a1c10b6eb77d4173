"""Anthropic's Messages API is a thin adapter: its words for what others ask as well.

body --wire, fields--> request --asking--> ChatWish
steps --MessageTeller--> message_start ... message_stop, or one message
"""

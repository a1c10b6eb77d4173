"""OpenAI's Responses API, without a store: every request has all of its conversation.

body --wire, fields--> request --asking--> ChatWish, what is repeated
steps --ResponseTeller--> response.created ... response.completed, or one response
"""

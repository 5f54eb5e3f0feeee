"""The rules of notification, pure.

``words`` puts events into words, ``samples`` has one of each to try them with, ``endpoints`` says where webhooks may
go, ``deliveries`` when something is sent again and when it is given up.
"""

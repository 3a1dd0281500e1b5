def handler(event, context):
    """`event` is the posted JSON (or text, or bytes); what is returned is the answer, as JSON."""
    context.logger.info(f"called with {event!r}")
    return {"hello": event, "request": context.request_id}

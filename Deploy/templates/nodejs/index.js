// `event` is the posted JSON (or text, or a Buffer); what is returned is the answer, as JSON.
exports.handler = async (event, context) => {
  context.logger.info(`called with ${JSON.stringify(event)}`);
  return { hello: event, request: context.requestId };
};

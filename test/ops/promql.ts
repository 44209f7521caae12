import { parser } from '@prometheus-io/lezer-promql';

/** A metric that an expression reads, with what it demands of its labels. */
export interface Selector {
  metric: string;
  matchers: { label: string; operator: string; value: string }[];
}

/** What an expression in PromQL reads. Throws when it is none. Grafana's interval variable may stand for a duration. */
export function readSelectors(expression: string): Selector[] {
  const text = expression.replaceAll('$__rate_interval', '5m');
  const selectors: Selector[] = [];
  parser.parse(text).iterate({
    enter: ({ type, from, to, node }) => {
      if (type.isError) throw new Error(`not PromQL at ${from}: ${text}`);
      if (type.name === 'VectorSelector') {
        const name = node.getChild('Identifier');
        selectors.push({ metric: name === null ? '' : text.slice(name.from, name.to), matchers: [] });
      }
      if (type.name === 'UnquotedLabelMatcher') {
        const [, label = '', operator = '', value = ''] =
          /^(\w+)\s*(=~|!~|!=|=)\s*"(.*)"$/.exec(text.slice(from, to)) ?? [];
        selectors.at(-1)?.matchers.push({ label, operator, value });
      }
    },
  });
  if (selectors.length === 0) throw new Error(`reads no metric: ${text}`);
  return selectors;
}

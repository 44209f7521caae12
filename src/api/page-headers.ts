import type { MiddlewareHandler } from 'hono';
import { secureHeaders } from 'hono/secure-headers';

/**
 * What a page may do: nothing from another address, nothing inline; images of style sheets are data. With Trusted Types
 * no code is made of text either: what the API answers cannot become part of the page's code, whatever a farmer wrote
 * into a field.
 */
export const pageHeaders = ({ trustedTypes }: { trustedTypes: boolean }): MiddlewareHandler =>
  secureHeaders({
    strictTransportSecurity: false,
    xFrameOptions: 'DENY',
    contentSecurityPolicy: {
      defaultSrc: ["'none'"],
      scriptSrc: ["'self'"],
      styleSrc: ["'self'"],
      imgSrc: ["'self'", 'data:'],
      connectSrc: ["'self'"],
      formAction: ["'none'"],
      baseUri: ["'none'"],
      frameAncestors: ["'none'"],
      ...(trustedTypes ? { requireTrustedTypesFor: ["'script'"], trustedTypes: ["'none'"] } : {}),
    },
  });

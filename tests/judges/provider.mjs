// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
// An OpenID-certified provider for the tests: provider.mjs PORT RESOURCE... , issuer http://127.0.0.1:PORT
// Access tokens for the named resources are JWTs (RFC 9068); for any other one there are none.
import { createHash, generateKeyPairSync } from 'node:crypto';
import Provider from 'oidc-provider';

const [port, ...resources] = process.argv.slice(2);
const key = { ...generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' }), use: 'sig' };
key.kid = createHash('sha256').update(key.n).digest('hex').slice(0, 16);

const provider = new Provider(`http://127.0.0.1:${port}`, {
  jwks: { keys: [key] },
  cookies: { keys: ['for tests only'] },
  pkce: { required: () => true },
  scopes: ['openid', 'offline_access', 'tools:read', 'tools:call', 'tools:admin'],
  clientBasedCORS: () => true,
  features: {
    devInteractions: { enabled: true },
    registration: { enabled: true },
    introspection: { enabled: true },
    revocation: { enabled: true },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      useGrantedResource: () => true,
      getResourceServerInfo(_, resource) {
        if (!resources.includes(resource)) throw new Error('invalid_target');
        return {
          scope: 'tools:read tools:call',
          audience: resource,
          accessTokenFormat: 'jwt',
          accessTokenTTL: 300,
          jwt: { sign: { alg: 'RS256' } },
        };
      },
    },
  },
  clients: [
    {
      client_id: 'machine',
      client_secret: 'for-tests-only-for-tests-only',
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
    },
  ],
});
provider.listen(Number(port), '127.0.0.1', () => console.log('listening'));

// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Issuer is an identity provider that signs tokens for a [FederationPolicy]. It
// is safe for concurrent use.
type Issuer struct {
	signer jose.Signer
	jwks   []byte
}

// NewIssuer makes an issuer with a new key for "RS256" or "ES256". It panics for
// another algorithm.
func NewIssuer(alg string) *Issuer {
	private := jose.JSONWebKey{KeyID: randomHex(8), Algorithm: alg, Use: "sig"}
	var err error
	switch alg {
	case "RS256":
		private.Key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ES256":
		private.Key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	default:
		panic(fmt.Sprintf("simulator: an issuer signs with RS256 or ES256, not with %q", alg))
	}
	must(err)
	i := &Issuer{}
	i.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(alg), Key: private}, (&jose.SignerOptions{}).WithType("JWT"))
	must(err)
	i.jwks, err = json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{private.Public()}})
	must(err)
	return i
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// JWKS is the public key as a JSON Web Key Set.
func (i *Issuer) JWKS() []byte { return i.jwks }

// Sign makes a JWT of exactly these claims, whose times are numbers of seconds
// since the epoch. It panics if they can't be JSON.
func (i *Issuer) Sign(claims map[string]any) string {
	token, err := jwt.Signed(i.signer).Claims(claims).Serialize()
	must(err)
	return token
}

import { type Instant, isoOf } from './instant.ts';
import { compareBytes, finiteTime } from './plain-values.ts';
import type { World } from './source-rows.ts';

export function certificatesOf(world: World, booking: World['bookings'][number], now: Instant) {
  const ofVendor = world.complianceCertificates
    .filter((certificate) => booking.vendorId !== null && certificate.vendorId === booking.vendorId)
    .filter((certificate) => certificate.status === 'valid')
    .filter((certificate) => certificate.expiresAt === null || now < certificate.expiresAt)
    .map((certificate) => ({
      id: certificate.id,
      type: certificate.type,
      issuer: certificate.issuer,
      certificate_number: certificate.number,
      issue_date: finiteTime(certificate.issueDate),
      expiry_date: finiteTime(certificate.expiryDate),
      status: certificate.status,
      document_url: certificate.documentUrl,
      score: certificate.score,
    }));
  const ofBooking = world.storageCertificates
    .filter((certificate) => certificate.bookingId === booking.id)
    .filter((certificate) => certificate.status !== 'revoked' && certificate.status !== 'expired')
    .map((certificate) => ({
      id: certificate.id,
      type: 'storage_certificate',
      certificate_number: certificate.number,
      issued_date: isoOf(certificate.issuedDate),
      status: certificate.status,
      digital_signature: certificate.digitalSignature,
      issued_by: certificate.issuedBy,
    }));
  return [...ofVendor, ...ofBooking].sort((a, b) => {
    if (a.type === b.type) return compareBytes(a.id, b.id);
    if (a.type === null) return 1;
    if (b.type === null) return -1;
    return compareBytes(a.type, b.type);
  });
}

// Writes measurement reports as OHIF does (@cornerstonejs/adapters on dcmjs): bookmarks.mjs IMAGE.json OUT
// IMAGE.json holds the image's identifiers, geometry and `world`: both ends of the long axis, then of the short one, LPS mm.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import dcmjs from 'dcmjs';
import { adaptersSR } from '@cornerstonejs/adapters';
import { metaData } from '@cornerstonejs/core';

const image = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const out = process.argv[3];
const imageId = 'peer:1';
const modules = {
  sopCommonModule: { sopInstanceUID: image.sop_instance_uid, sopClassUID: '1.2.840.10008.5.1.4.1.1.2' },
  generalSeriesModule: { studyInstanceUID: image.study, seriesInstanceUID: image.series },
  instance: {
    SOPInstanceUID: image.sop_instance_uid, SOPClassUID: '1.2.840.10008.5.1.4.1.1.2',
    StudyInstanceUID: image.study, SeriesInstanceUID: image.series, PatientID: 'P', StudyDate: '20000101',
  },
  frameNumber: 1,
  imagePlaneModule: {
    rowCosines: [1, 0, 0], columnCosines: [0, 1, 0], imagePositionPatient: image.position,
    rowPixelSpacing: image.spacing[0], columnPixelSpacing: image.spacing[1],
    rows: 512, columns: 512, frameOfReferenceUID: image.frame,
  },
};
const provider = { get: (kind, id) => (id === imageId ? modules[kind] : undefined) };
metaData.addProvider((kind, id) => provider.get(kind, id), 1000);

const distance = (a, b) => Math.hypot(...a.map((v, i) => v - b[i]));
const [a, b, c, d] = image.world;

function tool(referencedImageId) {
  return {
    metadata: { toolName: 'Bidirectional', referencedImageId, FrameOfReferenceUID: image.frame },
    data: {
      handles: { points: image.world },
      cachedStats: { [`imageId:${imageId}`]: { length: distance(a, b), width: distance(c, d), unit: 'mm' } },
    },
    finding: undefined,
    findingSites: [],
  };
}

function write(name, dataset) {
  mkdirSync(join(out, name), { recursive: true });
  writeFileSync(join(out, name, 'object.dcm'), Buffer.from(dcmjs.data.datasetToDict(dataset).write()));
}

// What a viewer does: the tool's state through the adapter.
const state = { [imageId]: { Bidirectional: { data: [tool(imageId)] } } };
const report = adaptersSR.Cornerstone3D.MeasurementReport.generateReport(state, provider, {});
write('ohif', report.dataset);

// The classes below it, with coordinates in the patient.
const { TID300, TID1500 } = dcmjs.utilities;
const xyz = ([x, y, z]) => ({ x, y, z });
const measurement = new TID300.Bidirectional({
  longAxis: { point1: xyz(a), point2: xyz(b) }, shortAxis: { point1: xyz(c), point2: xyz(d) },
  longAxisLength: distance(a, b), shortAxisLength: distance(c, d), unit: 'mm',
  use3DSpatialCoordinates: true, ReferencedFrameOfReferenceUID: image.frame,
  ReferencedSOPSequence: { ReferencedSOPClassUID: '1.2.840.10008.5.1.4.1.1.2', ReferencedSOPInstanceUID: image.sop_instance_uid },
  trackingIdentifierTextValue: 'peer:Bidirectional', findingSites: [],
});
const content = new TID1500.TID1500MeasurementReport({ TID1501MeasurementGroups: [new TID1500.TID1501MeasurementGroup([measurement])] }, {});
const source = { StudyInstanceUID: image.study, SeriesInstanceUID: image.series, _meta: report.dataset._meta, _vrMap: {} };
const second = new dcmjs.derivations.StructuredReport([source]);
second.dataset = Object.assign(second.dataset, content.contentItem([source], { sopInstanceUIDsToSeriesInstanceUIDMap: { [image.sop_instance_uid]: image.series } }));
second.dataset._meta = report.dataset._meta;
write('dcmjs-3d', second.dataset);
